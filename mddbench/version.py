"""The version of mddbench."""

VERSION = "0.1.0"
