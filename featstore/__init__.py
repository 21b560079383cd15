"""featstore: corpora, codecs and labels into one chunked HDF5 store, and the reader of that store."""

__version__ = "0.1.0"
