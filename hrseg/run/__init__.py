"""How a run is put together: its folder, its settings, its processes, and `hrseg.fit`."""
