//! Texts as tokens (`docs/protocol.md`, section 3).

use outboard_core::error::{Error, Result};
use outboard_protocol::{Feature, Values};
use outboard_store::Scratch;

use crate::{MOST_VALUES, source::Source, tokenizer::Encoder, wording::shown};

/// Tokens of a text, unless the job says.
pub(crate) const MAX_LENGTH: usize = 256;

/// The tokens of each row, then zeroes up to the length. Tokens are bytes or what a tokenizer says, each and 1.
pub(crate) fn read(source: &Source, feature: &Feature, scratch: &Scratch) -> Result<Option<Values<f32>>> {
    let Feature::Text { name, max_length, tokenizer } = feature else { return Ok(None) };
    let position = source.position(name).ok_or_else(|| {
        source
            .refuse(format!("the training data has a column {}, but this file has not", shown(name)))
            .at("column", crate::wording::cut(name))
            .hint("add the column")
    })?;
    let encoder = tokenizer.as_ref().map(|tokenizer| Encoder::new(&tokenizer.json, *max_length)).transpose();
    let encoder = encoder.map_err(|e| e.at("file", source.path().display()))?;
    let mut tokens = scratch.list();
    let mut text = Vec::new();
    source.for_each_row(|row| {
        if tokens.len() + max_length > MOST_VALUES {
            return Err(Error::invalid(format!("the texts have more than {MOST_VALUES} tokens"))
                .at("file", source.path().display())
                .hint("use fewer rows, or a smaller `max_length`"));
        }
        text.clear();
        let cell = row.text(position, name)?;
        match &encoder {
            None => text.extend(cell.bytes().take(*max_length).map(|byte| f32::from(byte) + 1.0)),
            Some(encoder) => encoder
                .append(cell, &mut text)
                .map_err(|what| row.refuse_cell(name, what).hint("fix the cell, or remove the row"))?,
        }
        text.resize(*max_length, 0.0);
        tokens.extend(&text)
    })?;
    tokens.finish().map(Some)
}
