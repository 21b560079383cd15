"""The same rows in a store and in what else people keep features in, and how fast each is read."""
