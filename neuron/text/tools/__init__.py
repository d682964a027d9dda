"""Tool calls as models write them: one module per format, behind one interface."""
