"""Training: the steps of all kinds of dictionaries on the CPU and on CUDA, and what drives them."""
