//! Virtual networks of a host: namespaces, bridges, taps, routers.
