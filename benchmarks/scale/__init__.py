"""The parts of the synthetic store of true shape: its corpus, its speech, its codecs."""
