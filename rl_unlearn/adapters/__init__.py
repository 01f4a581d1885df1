"""LoRA adapters: their files, those of other trainers, several as one."""
