"""Makes and checks the environments in `.venv/`: what `install.py` runs. Standard library only.

recipe -> build (tools, pip_settings, requirements) -> sound -> switch; commands and host_start are the entries.
"""
