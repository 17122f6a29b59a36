"""Original and patched behind one endpoint: A/B, shadow, kill switch (extra `serve`)."""
