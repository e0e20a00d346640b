//! The last text of a field, and the name that was made of it.
//!
//! An event's call site, function and reason are mostly those of the last event of its kind. Then neither the field's end has to be
//! looked for nor the name. The text is kept as it stood in the line, so that what is found is what reading it again would give.

use super::around;
use crate::words;
use crate::{Name, Names};

/// The longest text that is kept: longer symbols are rare.
const LONGEST: usize = 64;

pub(super) struct Known {
    text: [u8; LONGEST],
    len: usize,
    /// None: nothing is known.
    name: Name,
}

impl Default for Known {
    fn default() -> Self {
        Known { text: [0; LONGEST], len: 0, name: Name::NONE }
    }
}

impl Known {
    /// The name that `read` makes of what stands in front of a label, and what stands behind the label. A label begins with its
    /// only blank: so it cannot begin within a text that was once read up to it.
    #[inline(always)]
    pub(super) fn before<'a>(
        &mut self,
        text: &'a [u8],
        label: &'static [u8],
        names: &mut Names,
        read: impl FnOnce(&[u8], &mut Names) -> Name,
    ) -> Option<(Name, &'a [u8])> {
        if let Some((front, rest)) = text.split_at_checked(self.len)
            && let Some(behind) = rest.strip_prefix(label)
            && let Some(name) = self.of(front)
        {
            return Some((name, behind));
        }
        let (front, behind) = around(text, label)?;
        Some((self.keep(front, read(front, names)), behind))
    }

    /// The name that `read` makes of a text.
    #[inline(always)]
    pub(super) fn whole(
        &mut self,
        text: &[u8],
        names: &mut Names,
        read: impl FnOnce(&[u8], &mut Names) -> Name,
    ) -> Name {
        match self.of(text) {
            Some(name) => name,
            None => self.keep(text, read(text, names)),
        }
    }

    #[inline(always)]
    fn of(&self, text: &[u8]) -> Option<Name> {
        (!self.name.is_none() && words::same(text, self.text.get(..self.len)?)).then_some(self.name)
    }

    #[inline]
    fn keep(&mut self, text: &[u8], name: Name) -> Name {
        if let Some(place) = self.text.get_mut(..text.len()) {
            place.copy_from_slice(text);
            (self.len, self.name) = (text.len(), name);
        }
        name
    }
}
