"""Bad and hostile input by the million, from a seed; and by coverage, where atheris is installed."""
