//! Draws a [`Diagnostic`](crate::dockerfile::Diagnostic) with an excerpt of the Dockerfile.
