"""Guild specs and their loading, the Agent API, dispatch, routing, and state."""
