"""mddbench: multi-class unsupervised image anomaly detection, measured the same way for every method."""

__version__ = "0.1.0"
