"""How clients speak; one package or module per dialect, pure functions.

The internal form is the neuron's: OpenAI's chat completions with vLLM's extensions.
"""
