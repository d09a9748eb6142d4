"""Letters made from templates, which are prepared when saved, compiled once and rendered many times."""
