//! `#[derive(Record)]` and `#[derive(Key)]`: what can travel between tasks, and what streams can be keyed by.
//!
//! Users reach both through the library `perennial`, whose paths the generated code names. A struct is its fields in
//! order, an enum a `u32` index and the variant's fields, exactly as `perennial_types::record` lays them out. This crate
//! only writes code; the byte layout is decided in `perennial-types`.

mod expand;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Implements `perennial::Record` for a struct or an enum whose fields are all records.
///
/// Type parameters get the bound `Record`. A struct whose fields have fixed sizes has a fixed size, and so has an enum
/// without fields. The type must also be `Clone`.
#[proc_macro_derive(Record)]
pub fn derive_record(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand::record(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Implements `perennial::Key` for a struct or an enum whose fields are all keys.
///
/// The hash combines the fields in order as tuples do, an enum's index first: renaming is free, reordering fields or
/// variants moves keys to other key groups. The type must also be `Record`, `Eq` and `Hash`.
#[proc_macro_derive(Key)]
pub fn derive_key(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand::key(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}
