"""Scripts that run exported files without hrseg; `hrseg export` copies one beside each file."""
