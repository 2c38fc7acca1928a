//! Real clients and endpoints: the table of docs/traffic.md.
