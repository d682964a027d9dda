"""Reading GGUF files: metadata, tensors, tokenizer."""
