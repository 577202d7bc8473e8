"""Stage 4, decision to eye: heat map, overlay, sheets, plots and the HTML report."""
