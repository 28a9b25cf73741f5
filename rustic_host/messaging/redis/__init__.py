"""The bus on Redis: an arrival-ordered log per topic, and publish and commit as atomic scripts."""
