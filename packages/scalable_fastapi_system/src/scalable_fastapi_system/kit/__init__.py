"""Pure building blocks: errors, ids, time, pages, domain declarations. No I/O, no framework."""
