"""Small image Transformers on MNIST digits with planted backdoors: three architectures, three attacks."""
