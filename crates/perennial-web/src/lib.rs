//! perennial-web
