//! The generated implementations.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DataEnum, DeriveInput, Error, Fields, GenericParam, Generics, Index, Result, parse_quote};

/// Where the generated code finds the traits.
fn private() -> TokenStream {
    quote!(::perennial::__private)
}

/// Implementation of `Record`.
pub(crate) fn record(input: &DeriveInput) -> Result<TokenStream> {
    refuse_borrowing(&input.generics, "Record")?;
    let body = match &input.data {
        Data::Struct(data) => record_struct(&data.fields),
        Data::Enum(data) => record_enum(&input.ident, data)?,
        Data::Union(data) => {
            return Err(Error::new(data.union_token.span, "`Record` cannot be derived for unions; use an enum"));
        }
    };
    Ok(implement(input, &format_ident!("Record"), body))
}

/// Implementation of `Key`.
pub(crate) fn key(input: &DeriveInput) -> Result<TokenStream> {
    refuse_borrowing(&input.generics, "Key")?;
    let body = match &input.data {
        Data::Struct(data) => {
            let parts = members(&data.fields).map(|(member, ty)| hash_of(&quote!(&self.#member), ty));
            quote! { let hash = 1u32; #(#parts)* hash }
        }
        Data::Enum(data) => key_enum(data)?,
        Data::Union(data) => {
            return Err(Error::new(data.union_token.span, "`Key` cannot be derived for unions; use an enum"));
        }
    };
    let body = quote! {
        #[inline]
        fn key_hash(&self) -> u32 {
            #body
        }
    };
    Ok(implement(input, &format_ident!("Key"), body))
}

/// `impl Trait for Type`, every type parameter bound by the trait.
fn implement(input: &DeriveInput, which: &Ident, body: TokenStream) -> TokenStream {
    let private = private();
    let mut generics = input.generics.clone();
    for parameter in generics.type_params_mut() {
        parameter.bounds.push(parse_quote!(#private::#which));
    }
    let (parameters, _, bounds) = generics.split_for_impl();
    let (_, arguments, _) = input.generics.split_for_impl();
    let name = &input.ident;
    quote! {
        #[automatically_derived]
        impl #parameters #private::#which for #name #arguments #bounds {
            #body
        }
    }
}

fn refuse_borrowing(generics: &Generics, what: &str) -> Result<()> {
    match generics.params.iter().find(|parameter| matches!(parameter, GenericParam::Lifetime(_))) {
        Some(lifetime) => Err(Error::new(
            lifetime.span(),
            format!("`{what}` cannot be derived for a type that borrows: it outlives its task; own the data instead"),
        )),
        None => Ok(()),
    }
}

fn record_struct(fields: &Fields) -> TokenStream {
    let private = private();
    let sizes = fields.iter().map(|field| {
        let ty = &field.ty;
        quote_spanned! {ty.span()=> let size = #private::add_fixed(size, <#ty as #private::Record>::FIXED_BYTES); }
    });
    let encodes = members(fields).map(|(member, ty)| {
        quote_spanned! {ty.span()=> <#ty as #private::Record>::encode(&self.#member, out); }
    });
    let fixed = members(fields).map(|(member, ty)| {
        quote_spanned! {ty.span()=>
            let size = #private::fixed_or_zero(<#ty as #private::Record>::FIXED_BYTES);
            let ::core::option::Option::Some((head, rest)) = rest.split_at_mut_checked(size) else { return };
            <#ty as #private::Record>::encode_fixed(&self.#member, head);
        }
    });
    let decodes = members(fields).map(|(member, ty)| {
        quote_spanned! {ty.span()=> #member: <#ty as #private::Record>::decode(input)?, }
    });
    quote! {
        const FIXED_BYTES: ::core::option::Option<usize> = {
            let size = ::core::option::Option::Some(0usize);
            #(#sizes)*
            size
        };

        #[inline]
        fn encode(&self, out: &mut ::std::vec::Vec<u8>) {
            let _ = &out;
            #(#encodes)*
        }

        #[inline]
        fn encode_fixed(&self, out: &mut [u8]) {
            let rest = out;
            #(#fixed)*
            let _ = rest;
        }

        #[inline]
        fn decode(input: &mut &[u8]) -> ::core::result::Result<Self, #private::DecodeError> {
            let _ = &input;
            ::core::result::Result::Ok(Self { #(#decodes)* })
        }
    }
}

fn record_enum(name: &Ident, data: &DataEnum) -> Result<TokenStream> {
    let private = private();
    let fixed = data.variants.iter().all(|variant| variant.fields.is_empty());
    let size = if fixed { quote!(::core::option::Option::Some(4usize)) } else { quote!(::core::option::Option::None) };
    let mut encodes = Vec::new();
    let mut indexes = Vec::new();
    let mut decodes = Vec::new();
    for (index, variant) in indexed(data)? {
        let (variant_name, pattern, bindings) = (&variant.ident, pattern(&variant.fields), bindings(&variant.fields));
        let types = variant.fields.iter().map(|field| &field.ty);
        encodes.push(quote! {
            Self::#variant_name #pattern => {
                <u32 as #private::Record>::encode(&#index, out);
                #(<#types as #private::Record>::encode(#bindings, out);)*
            }
        });
        indexes.push(quote!(Self::#variant_name { .. } => #index,));
        let fields = members(&variant.fields).map(|(member, ty)| {
            quote_spanned! {ty.span()=> #member: <#ty as #private::Record>::decode(input)?, }
        });
        decodes.push(quote!(#index => Self::#variant_name { #(#fields)* },));
    }
    let what = name.to_string();
    let match_self = |arms: &[TokenStream]| match arms {
        [] => quote!(match *self {}),
        arms => quote!(match self { #(#arms)* }),
    };
    let (encode, index) = (match_self(&encodes), match_self(&indexes));
    // Only fixed types are asked for this; the others keep the trait's default.
    let encode_fixed = fixed.then(|| {
        quote! {
            #[inline]
            fn encode_fixed(&self, out: &mut [u8]) {
                let index: u32 = #index;
                <u32 as #private::Record>::encode_fixed(&index, out);
            }
        }
    });
    Ok(quote! {
        const FIXED_BYTES: ::core::option::Option<usize> = #size;

        #[inline]
        fn encode(&self, out: &mut ::std::vec::Vec<u8>) {
            #encode
        }

        #encode_fixed

        #[inline]
        fn decode(input: &mut &[u8]) -> ::core::result::Result<Self, #private::DecodeError> {
            ::core::result::Result::Ok(match <u32 as #private::Record>::decode(input)? {
                #(#decodes)*
                _ => return ::core::result::Result::Err(#private::DecodeError::Invalid(#what)),
            })
        }
    })
}

fn key_enum(data: &DataEnum) -> Result<TokenStream> {
    let private = private();
    let mut arms = Vec::new();
    for (index, variant) in indexed(data)? {
        let (name, pattern, bindings) = (&variant.ident, pattern(&variant.fields), bindings(&variant.fields));
        let parts = bindings.iter().zip(&variant.fields).map(|(binding, field)| hash_of(&quote!(#binding), &field.ty));
        arms.push(quote! {
            Self::#name #pattern => {
                let hash = #private::combine(1u32, #index);
                #(#parts)*
                hash
            }
        });
    }
    Ok(if arms.is_empty() { quote!(match *self {}) } else { quote!(match self { #(#arms)* }) })
}

fn hash_of(field: &TokenStream, ty: &syn::Type) -> TokenStream {
    let private = private();
    quote_spanned! {ty.span()=> let hash = #private::combine(hash, <#ty as #private::Key>::key_hash(#field)); }
}

/// Fields with the way to name them: `name`, or `0` which a struct literal also takes.
fn members(fields: &Fields) -> impl Iterator<Item = (TokenStream, &syn::Type)> {
    fields.iter().enumerate().map(|(index, field)| {
        let member = match &field.ident {
            Some(name) => quote!(#name),
            None => {
                let index = Index { index: index as u32, span: Span::call_site() };
                quote!(#index)
            }
        };
        (member, &field.ty)
    })
}

fn indexed(data: &DataEnum) -> Result<impl Iterator<Item = (u32, &syn::Variant)>> {
    let count = data.variants.len();
    u32::try_from(count).map_err(|_| Error::new(Span::call_site(), "more variants than a `u32` counts"))?;
    Ok((0u32..).zip(&data.variants))
}

/// Names for the fields of a matched variant.
fn bindings(fields: &Fields) -> Vec<Ident> {
    (0..fields.len()).map(|index| format_ident!("field_{index}")).collect()
}

/// `{ name: field_0, .. }`, also for tuple and unit variants: `{ 0: field_0 }` and `{}`.
fn pattern(fields: &Fields) -> TokenStream {
    let names = members(fields).map(|(member, _)| member);
    let bindings = bindings(fields);
    quote!({ #(#names: #bindings),* })
}
