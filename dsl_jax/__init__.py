"""Train networks by searching representations and learning them (arXiv 2509.10973)."""
