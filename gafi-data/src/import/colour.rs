//! [`Background`] and [`Window`]: how transparent pixels and 16-bit values become 8-bit colours.

use serde::{Deserialize, Serialize};

/// The colour that transparent pixels are composited on. In a configuration: `"white"`, `"black"` or `"#RRGGBB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(with = "String"))]
#[serde(try_from = "String", into = "String")]
pub struct Background([u8; 3]);

impl Default for Background {
    /// White.
    fn default() -> Self {
        Self([255; 3])
    }
}

impl Background {
    /// The colour with these values of red, green and blue.
    pub const fn new(rgb: [u8; 3]) -> Self {
        Self(rgb)
    }

    /// Red, green and blue.
    pub(crate) const fn colour(self) -> [u8; 3] {
        self.0
    }

    /// Its value, if it is a grey.
    pub(crate) fn grey(self) -> Option<u8> {
        let [r, g, b] = self.0;
        (r == g && g == b).then_some(r)
    }
}

impl std::fmt::Display for Background {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            [255, 255, 255] => f.write_str("white"),
            [0, 0, 0] => f.write_str("black"),
            [r, g, b] => write!(f, "#{r:02x}{g:02x}{b:02x}"),
        }
    }
}

impl TryFrom<String> for Background {
    type Error = String;

    fn try_from(s: String) -> Result<Self, String> {
        let hex = |digits: &str| (digits.len() == 6).then(|| u32::from_str_radix(digits, 16).ok()).flatten();
        match s.as_str() {
            "white" => Ok(Self([255; 3])),
            "black" => Ok(Self([0; 3])),
            _ => s.strip_prefix('#').and_then(hex).map_or_else(
                || Err(format!("background: expected white, black or #RRGGBB, found {s:?}")),
                |rgb| Ok(Self([(rgb >> 16) as u8, (rgb >> 8) as u8, rgb as u8])),
            ),
        }
    }
}

impl From<Background> for String {
    fn from(background: Background) -> Self {
        background.to_string()
    }
}

/// The values of 16-bit images that become 0 and 255; values outside are clamped. In a configuration: `"auto"` or `[low, high]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(try_from = "WindowText", into = "WindowText")]
pub enum Window {
    /// `[0, 2^b - 1]`, where b from 8 to 16 is the fewest bits that hold the largest value of all 16-bit images.
    #[default]
    Auto,
    /// These two values.
    Values([u16; 2]),
}

#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
enum WindowText {
    Word(String),
    Values([u16; 2]),
}

impl TryFrom<WindowText> for Window {
    type Error = String;

    fn try_from(text: WindowText) -> Result<Self, String> {
        match text {
            WindowText::Word(word) if word == "auto" => Ok(Self::Auto),
            WindowText::Values([low, high]) if low < high => Ok(Self::Values([low, high])),
            WindowText::Values([low, high]) => Err(format!("window: expected low < high, found [{low}, {high}]")),
            WindowText::Word(word) => Err(format!("window: expected \"auto\" or [low, high], found {word:?}")),
        }
    }
}

impl From<Window> for WindowText {
    fn from(window: Window) -> Self {
        match window {
            Window::Auto => Self::Word("auto".into()),
            Window::Values(values) => Self::Values(values),
        }
    }
}

/// The window that [`Window::Auto`] selects for the largest value `max`, and its number of bits.
pub(crate) fn fitting_window(max: u16) -> ([u16; 2], u32) {
    let bits = (16 - max.leading_zeros()).max(8);
    ([0, ((1u32 << bits) - 1) as u16], bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backgrounds_are_read_and_shown() {
        let parse = |text: &str| serde_json::from_value::<Background>(text.into());
        for (text, rgb) in [("white", [255; 3]), ("black", [0; 3]), ("#102aff", [16, 42, 255])] {
            assert_eq!(parse(text).unwrap(), Background(rgb));
            assert_eq!(Background(rgb).to_string(), text);
        }
        for text in ["grey", "#12", "#gggggg", ""] {
            assert!(parse(text).unwrap_err().to_string().contains("expected white, black or #RRGGBB"), "{text}");
        }
        assert_eq!((Background([3; 3]).grey(), Background([3, 3, 4]).grey()), (Some(3), None));
    }

    #[test]
    fn windows_are_read_and_fitted() {
        let parse = |text: &str| serde_json::from_str::<Window>(text);
        assert_eq!(parse("\"auto\"").unwrap(), Window::Auto);
        assert_eq!(parse("[0, 4095]").unwrap(), Window::Values([0, 4095]));
        assert!(parse("[5, 5]").unwrap_err().to_string().contains("low < high"));
        assert!(parse("\"wide\"").unwrap_err().to_string().contains("expected \"auto\""));
        for (max, high, bits) in [(0, 255, 8), (255, 255, 8), (256, 511, 9), (3000, 4095, 12), (65535, 65535, 16)] {
            assert_eq!(fitting_window(max), ([0, high], bits));
        }
    }
}
