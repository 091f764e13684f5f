//! Profiles: named sets of keys that routes take over.

use crate::section::Section;

/// The keys that make a route this one and no other.
const OWN: [&str; 4] = ["method", "path", "profile", "version"];

/// The `[profile.NAME]` tables of all routes files.
#[derive(Default)]
pub(crate) struct Profiles<'d>(Vec<Profile<'d>>);

struct Profile<'d> {
    name: String,
    section: Section<'d>,
    used: bool,
}

impl<'d> Profiles<'d> {
    /// Takes the profiles of one file.
    pub(crate) fn read(&mut self, root: &mut Section<'d>) {
        let Some(mut table) = root.section("profile") else {
            return;
        };
        for name in table.names() {
            let Some(section) = table.named_section(&name.value) else {
                continue;
            };
            if self.0.iter().any(|p| p.name == name.value) {
                table.problem(
                    &name.span,
                    format!("profile `{}` is there twice", name.value),
                );
            }
            for key in section.names() {
                if OWN.contains(&key.value.as_str()) {
                    table.problem(
                        &key.span,
                        format!("a profile has no `{}`: that is a route's own", key.value),
                    );
                }
            }
            self.0.push(Profile {
                name: name.value,
                section,
                used: false,
            });
        }
    }

    /// Gives a route what its profile says and it does not.
    pub(crate) fn apply(&mut self, route: &mut Section<'d>) {
        let Some(name) = route.text("profile") else {
            return;
        };
        match self.0.iter_mut().find(|p| p.name == name.value) {
            Some(profile) => {
                profile.used = true;
                route.inherit(&profile.section);
            }
            None => route.problem(
                &name.span,
                format!("there is no `[profile.{}]`", name.value),
            ),
        }
    }

    /// Reports profiles of which nothing could be checked.
    pub(crate) fn finish(&self) {
        for profile in self.0.iter().filter(|p| !p.used) {
            let at = profile.section.span();
            let message = format!("no route has profile `{}`: remove it", profile.name);
            profile.section.problem(&at, message);
        }
    }
}
