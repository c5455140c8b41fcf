//! The workspace seen from outside: helpers shared by the test binaries in this package.
