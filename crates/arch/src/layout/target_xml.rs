//! The target description, for GDB first and LLDB as well.
//!
//! Every register carries its number, because the order of features in the document is not the
//! order of numbers: QEMU's order puts system registers between two parts of the feature
//! `org.gnu.gdb.i386.core`, and GDB looks at one feature of a name only.

use alloc::{string::String, vec::Vec};
use core::fmt::Write as _;

use super::{Layout, LayoutEntry};
use crate::{FlagField, GdbType};

pub(super) fn render(layout: &Layout) -> String {
    let mut xml = String::from(
        "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n\
         <target version=\"1.0\">\n",
    );
    line(
        &mut xml,
        format_args!(
            "  <architecture>{}</architecture>",
            layout.kind.gdb_architecture()
        ),
    );
    let quadwords = layout.features.vector_quadwords();
    for feature in features(layout) {
        line(&mut xml, format_args!("  <feature name=\"{feature}\">"));
        let entries = || {
            layout
                .entries
                .iter()
                .filter(|entry| entry.view.feature == feature)
        };
        let mut defined = Vec::new();
        for entry in entries() {
            define(&mut xml, &entry.view.gdb_type, quadwords, &mut defined);
        }
        for entry in entries() {
            register(&mut xml, entry);
        }
        xml.push_str("  </feature>\n");
    }
    xml.push_str("</target>\n");
    xml
}

fn line(xml: &mut String, text: core::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(xml, "{text}");
}

/// Returns the features in the order in which their first register is numbered.
fn features(layout: &Layout) -> Vec<&'static str> {
    let mut features = Vec::new();
    for entry in &layout.entries {
        if !features.contains(&entry.view.feature) {
            features.push(entry.view.feature);
        }
    }
    features
}

/// Defines a type and the types it is made of, each once per feature.
fn define(xml: &mut String, gdb_type: &GdbType, quadwords: u8, defined: &mut Vec<&'static str>) {
    if defined.contains(&gdb_type.id()) {
        return;
    }
    match gdb_type {
        GdbType::Builtin(_) => return,
        GdbType::Flags {
            id,
            size_bytes,
            fields,
        } => {
            line(
                xml,
                format_args!("    <flags id=\"{id}\" size=\"{size_bytes}\">"),
            );
            for FlagField { name, start, end } in *fields {
                line(
                    xml,
                    format_args!("      <field name=\"{name}\" start=\"{start}\" end=\"{end}\"/>"),
                );
            }
            line(xml, format_args!("    </flags>"));
        }
        GdbType::Vector { id, element, count } => {
            define(xml, element, quadwords, defined);
            vector(xml, id, element, u16::from(*count));
        }
        GdbType::ScalableVector {
            id,
            element,
            per_quadword,
        } => {
            define(xml, element, quadwords, defined);
            let count = u16::from(*per_quadword).saturating_mul(quadwords.into());
            vector(xml, id, element, count);
        }
        GdbType::Union { id, fields } => {
            for (_, field_type) in *fields {
                define(xml, field_type, quadwords, defined);
            }
            line(xml, format_args!("    <union id=\"{id}\">"));
            for (name, field_type) in *fields {
                let field_type = field_type.id();
                line(
                    xml,
                    format_args!("      <field name=\"{name}\" type=\"{field_type}\"/>"),
                );
            }
            line(xml, format_args!("    </union>"));
        }
    }
    defined.push(gdb_type.id());
}

fn vector(xml: &mut String, id: &str, element: &GdbType, count: u16) {
    let element = element.id();
    line(
        xml,
        format_args!("    <vector id=\"{id}\" type=\"{element}\" count=\"{count}\"/>"),
    );
}

fn register(xml: &mut String, entry: &LayoutEntry) {
    let (register, view) = (entry.register, entry.view);
    xml.push_str("    <reg");
    let mut attribute = |name: &str, value: &dyn core::fmt::Display| {
        // Writing to a string cannot fail.
        let _ = write!(xml, " {name}=\"{value}\"");
    };
    attribute("name", &view.name);
    attribute("bitsize", &entry.bits);
    attribute("type", &view.gdb_type.id());
    attribute("regnum", &entry.number);
    attribute("group", &register.gdb_group.name());
    if let Some(alt_name) = register.alt_name {
        attribute("altname", &alt_name);
    }
    attribute("encoding", &register.encoding.name());
    attribute("format", &register.format.name());
    if let Some(ehframe) = view.ehframe {
        attribute("ehframe_regnum", &ehframe);
    }
    if let Some(dwarf) = view.dwarf {
        attribute("dwarf_regnum", &dwarf);
    }
    if let Some(role) = view.generic.and_then(|generic| generic.name()) {
        attribute("generic", &role);
    }
    xml.push_str("/>\n");
}
