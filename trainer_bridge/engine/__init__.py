"""The bundled trainer: runs only in its own process, with torch; imports contracts, never the extension."""
