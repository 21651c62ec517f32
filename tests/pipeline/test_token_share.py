"""What the current token explains of neurons, against the textbook's analysis of variance."""
