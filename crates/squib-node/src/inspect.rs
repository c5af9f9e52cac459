//! What instructions mean: the listing of squib's own definition, for people.

use napi::bindgen_prelude::{BigInt, Uint8Array};
use napi_derive::napi;
use squib_core::ErrorCode;
use squib_x86::CodeMode;
use squib_x86::insn::{DecodeError, InsnDecoder};
use squib_x86::listing::listing;

use crate::error::{Result, refuse};
use crate::number::word;

/// An instruction and what it means.
#[napi(object, object_from_js = false)]
pub struct InspectedInstruction {
    /// Address of its first byte.
    pub address: BigInt,
    /// Its bytes; what is left of them where they are no instruction.
    pub bytes: Uint8Array,
    /// In assembly, destination first; nothing where the bytes are no instruction.
    pub text: Option<String>,
    /// What a processor does where the bytes are no instruction: `#UD`, or `#GP` for one of more than 15 bytes;
    /// `truncated` where more bytes would make one.
    #[napi(ts_type = "'#UD' | '#GP' | 'truncated'")]
    pub error: Option<&'static str>,
    /// Its operations as every tier of the soft backend gets them, in order.
    pub operations: Vec<String>,
}

/// Decodes `code`, the first byte of which is at `address`, as code of 16, 32 or 64 bits. Ends with the first bytes
/// that are no instruction.
#[napi(catch_unwind)]
pub fn inspect(code: Uint8Array, bits: u32, address: BigInt) -> Result<Vec<InspectedInstruction>> {
    let mode = match bits {
        16 => CodeMode::Bits16,
        32 => CodeMode::Bits32,
        64 => CodeMode::Bits64,
        _ => return refuse(ErrorCode::InvalidArgument, format!("code has 16, 32 or 64 bits, not {bits}")),
    };
    let mut address = word(&address, ErrorCode::InvalidArgument)?;
    let mut decoder = InsnDecoder::new(&code, address, mode);
    let mut formatter = iced_x86::FastFormatter::new();
    formatter.options_mut().set_use_hex_prefix(true);
    formatter.options_mut().set_space_after_operand_separator(true);
    let mut found = Vec::new();
    while decoder.position() < code.len() {
        let start = decoder.position();
        match decoder.next_insn() {
            Ok(insn) => {
                let mut text = String::new();
                formatter.format(decoder.raw(), &mut text);
                found.push(InspectedInstruction {
                    address: address.into(),
                    bytes: code[start..decoder.position()].to_vec().into(),
                    text: Some(text),
                    error: None,
                    operations: listing(&insn).lines().map(str::to_owned).collect(),
                });
                address = insn.next;
            }
            Err(error) => {
                found.push(InspectedInstruction {
                    address: address.into(),
                    bytes: code[start..].to_vec().into(),
                    text: None,
                    error: Some(match error {
                        DecodeError::Truncated => "truncated",
                        DecodeError::Invalid => "#UD",
                        DecodeError::TooLong => "#GP",
                    }),
                    operations: Vec::new(),
                });
                break;
            }
        }
    }
    Ok(found)
}
