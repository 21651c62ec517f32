"""Homologous features and circuits of two language models of different architectures."""
