"""What becomes of a live model: windows of captured rows and of late labels, judged by the spec's signals."""
