//! HTTP and websockets: routes on one screen, one file for each resource.
