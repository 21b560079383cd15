"""Faults thrown at the store, its builds and its readers: what each is, how it strikes and what has to hold."""
