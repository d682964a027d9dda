"""neuron: one daemon per GPU host, one worker process per loaded model."""
