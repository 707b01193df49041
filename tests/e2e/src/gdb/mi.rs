//! Records of GDB's machine interface.
//!
//! ```text
//! 12^done,bkpt={number="1",addr="0x10",thread-groups=["i1"]}     result, with our token
//! *stopped,reason="breakpoint-hit",frame={…}                      asynchronous: * + =
//! ~"text\n"   @"text"   &"text"                                   what would have been printed
//! (gdb)                                                           a prompt
//! ```
//! Source: GDB manual, "GDB/MI Output Syntax".

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};

/// One line of GDB's output.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Record {
    /// The answer to the command with this token: its class and results.
    Result(u64, String, Value),
    /// Something happened: `*` (execution), `+` (status) or `=` (notification).
    Async(char, String, Value),
    /// Text that would have been printed: `~` (console), `@` (target) or `&` (log).
    Stream(char, String),
    /// `(gdb)`, or a line that is no record.
    Other,
}

impl Record {
    /// Reads a line without its end.
    pub(super) fn parse(line: &str) -> Result<Self> {
        let digits = line.len() - line.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (token, rest) = line.split_at(digits);
        let mut characters = rest.chars();
        let kind = characters.next();
        let mut parser = Parser(characters.as_str());
        match kind {
            Some('^') => {
                let token = token.parse().unwrap_or(0);
                let (class, results) = parser.class_and_results()?;
                Ok(Self::Result(token, class, results))
            }
            Some(kind @ ('*' | '+' | '=')) => {
                let (class, results) = parser.class_and_results()?;
                Ok(Self::Async(kind, class, results))
            }
            Some(kind @ ('~' | '@' | '&')) => Ok(Self::Stream(kind, parser.string()?)),
            _ => Ok(Self::Other),
        }
    }
}

/// What is left of the line.
struct Parser<'a>(&'a str);

impl Parser<'_> {
    fn take(&mut self, character: char) -> bool {
        let rest = self.0.strip_prefix(character);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn name(&mut self) -> String {
        let end = self.0.find([',', '=', '}', ']']).unwrap_or(self.0.len());
        let (name, rest) = self.0.split_at(end);
        self.0 = rest;
        name.to_owned()
    }

    fn class_and_results(&mut self) -> Result<(String, Value)> {
        let class = self.name();
        let mut results = Map::new();
        while self.take(',') {
            let (name, value) = self.result()?;
            results.insert(name, value);
        }
        Ok((class, Value::Object(results)))
    }

    /// `name=value`
    fn result(&mut self) -> Result<(String, Value)> {
        let name = self.name();
        if !self.take('=') {
            bail!("no '=' before {:?}", self.0);
        }
        Ok((name, self.value()?))
    }

    fn value(&mut self) -> Result<Value> {
        match self.0.chars().next() {
            Some('"') => Ok(Value::String(self.string()?)),
            Some('{') => {
                self.take('{');
                let mut members = Map::new();
                while !self.take('}') {
                    let (name, value) = self.result()?;
                    members.insert(name, value);
                    self.take(',');
                }
                Ok(Value::Object(members))
            }
            Some('[') => {
                self.take('[');
                let mut items = Vec::new();
                while !self.take(']') {
                    items.push(self.item()?);
                    self.take(',');
                }
                Ok(Value::Array(items))
            }
            other => bail!("{other:?} begins no value"),
        }
    }

    /// An item of a list: a value, or `name=value` of which the name says nothing new.
    fn item(&mut self) -> Result<Value> {
        if self.0.starts_with(['"', '{', '[']) {
            self.value()
        } else {
            self.result().map(|(_, value)| value)
        }
    }

    /// A string in C's notation.
    fn string(&mut self) -> Result<String> {
        if !self.take('"') {
            bail!("no string at {:?}", self.0);
        }
        let mut bytes = Vec::new();
        let mut rest = self.0.bytes();
        loop {
            match rest.next().context("a string without end")? {
                b'"' => break,
                b'\\' => bytes.push(match rest.next().context("a string without end")? {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    b'e' => 0x1b,
                    first @ b'0'..=b'7' => {
                        let mut digits = [first, 0, 0].map(u32::from);
                        for digit in digits.iter_mut().skip(1) {
                            *digit = rest.next().context("a string without end")?.into();
                        }
                        let code = digits
                            .iter()
                            .fold(0, |code, digit| code * 8 + (digit - u32::from(b'0')));
                        u8::try_from(code).context("an escape of more than a byte")?
                    }
                    other => other,
                }),
                other => bytes.push(other),
            }
        }
        self.0 = self.0.get(self.0.len() - rest.len()..).unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::Record;
    use serde_json::json;

    #[test]
    fn a_result_has_its_token_class_and_tuples() {
        let line = r#"7^done,bkpt={number="1",groups=["i1","i2"],frame={addr="0x10"}}"#;
        let expected =
            json!({"bkpt": {"number": "1", "groups": ["i1", "i2"], "frame": {"addr": "0x10"}}});
        assert_eq!(
            Record::parse(line).unwrap(),
            Record::Result(7, "done".into(), expected)
        );
    }

    #[test]
    fn names_in_lists_are_dropped() {
        let line = r#"*stopped,stack=[frame={level="0"},frame={level="1"}],empty=[],none={}"#;
        let expected = json!({"stack": [{"level": "0"}, {"level": "1"}], "empty": [], "none": {}});
        assert_eq!(
            Record::parse(line).unwrap(),
            Record::Async('*', "stopped".into(), expected)
        );
    }

    #[test]
    fn escapes_in_streams_are_resolved() {
        let line = r#"~"a \"b\"\n\303\244\\""#;
        assert_eq!(
            Record::parse(line).unwrap(),
            Record::Stream('~', "a \"b\"\nä\\".into())
        );
        assert_eq!(Record::parse("(gdb) ").unwrap(), Record::Other);
        assert!(Record::parse(r#"~"open"#).is_err());
    }
}
