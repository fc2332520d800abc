"""specml: one YAML spec becomes DVC stages, judged evidence and a Ray Serve deployment."""

__version__ = "0.1.0"
