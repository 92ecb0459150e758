"""Read weight files: formats, damage, pickles without their code, and the tensors inside."""
