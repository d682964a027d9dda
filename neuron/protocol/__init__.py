"""What a neuron and its callers share: wire types, routes, errors, files.

Nothing here imports the rest of a neuron, nor anything heavy: only `server_runner`,
which servers import, needs aiohttp.
"""
