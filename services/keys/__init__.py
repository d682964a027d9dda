"""Who may use the gateway, and how much: keys, their limits, what they have spent.

Nothing here knows HTTP, so that the command line manages keys without a gateway.
"""
