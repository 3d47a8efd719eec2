//! Events to whoever watches: publish and subscribe within the process.
