"""vLLM engines as child processes: how they are started, guarded, watched, measured and spoken to."""
