"""What everybody agrees on: errors, variables of a frame, scores, tasks. numpy and nothing heavier."""
