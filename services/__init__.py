"""The gateway: one OpenAI and Anthropic API in front of every neuron."""
