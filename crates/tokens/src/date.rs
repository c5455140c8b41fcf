//! The date a chat template may print, given by the caller and never by the clock.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

/// A day of the Gregorian calendar, as `YYYY-MM-DD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

impl Date {
    /// As Python's `strftime` at midnight in the C locale; none for a directive not known here.
    pub fn strftime(&self, format: &str) -> Option<String> {
        let Date { year, month, day } = *self;
        let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[self.weekday()]);
        let mut text = String::new();
        let mut characters = format.chars();
        while let Some(character) = characters.next() {
            if character != '%' {
                text.push(character);
                continue;
            }
            let mut directive = characters.next()?;
            let unpadded = directive == '-';
            if unpadded {
                directive = characters.next()?;
            }
            let two = |n: u16| {
                if unpadded {
                    n.to_string()
                } else {
                    format!("{n:02}")
                }
            };
            text += &match directive {
                'Y' => format!("{year:04}"),
                'y' => two(year % 100),
                'm' => two(month.into()),
                'd' => two(day.into()),
                'e' => format!("{day:2}"),
                'B' => month_name.to_owned(),
                'b' | 'h' => month_name[..3].to_owned(),
                'A' => day_name.to_owned(),
                'a' => day_name[..3].to_owned(),
                'j' if unpadded => self.day_of_year().to_string(),
                'j' => format!("{:03}", self.day_of_year()),
                'H' | 'M' | 'S' => two(0),
                'I' => two(12),
                'p' => "AM".to_owned(),
                'F' => self.to_string(),
                '%' => "%".to_owned(),
                _ => return None,
            };
        }
        Some(text)
    }

    fn day_of_year(&self) -> u16 {
        (1..self.month)
            .map(|month| u16::from(days_in(self.year, month)))
            .sum::<u16>()
            + u16::from(self.day)
    }

    /// Sunday = 0 (Sakamoto's method).
    fn weekday(&self) -> usize {
        const SHIFT: [usize; 12] = [0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4];
        let year = usize::from(self.year) - usize::from(self.month < 3);
        let leap_days = year / 4 - year / 100 + year / 400;
        (year + leap_days + SHIFT[usize::from(self.month) - 1] + usize::from(self.day)) % 7
    }
}

fn days_in(year: u16, month: u8) -> u8 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 => 28 + u8::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl FromStr for Date {
    type Err = String;

    fn from_str(text: &str) -> Result<Date, String> {
        let wrong = || format!("\"{text}\" is not a date written YYYY-MM-DD");
        let parts: Vec<&str> = text.split('-').collect();
        let [year, month, day] = parts[..] else {
            return Err(wrong());
        };
        let widths_fit = year.len() == 4 && month.len() == 2 && day.len() == 2;
        let digits = parts
            .iter()
            .all(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
        if !widths_fit || !digits {
            return Err(wrong());
        }
        let year: u16 = year.parse().map_err(|_| wrong())?;
        let (month, day): (u8, u8) = (
            month.parse().map_err(|_| wrong())?,
            day.parse().map_err(|_| wrong())?,
        );
        let exists =
            year > 0 && (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day);
        if exists {
            Ok(Date { year, month, day })
        } else {
            Err(wrong())
        }
    }
}

impl TryFrom<String> for Date {
    type Error = String;

    fn try_from(text: String) -> Result<Date, String> {
        text.parse()
    }
}

impl From<Date> for String {
    fn from(date: Date) -> String {
        date.to_string()
    }
}

impl fmt::Display for Date {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_pythons_strftime_does() {
        let date: Date = "2026-11-23".parse().unwrap();
        assert_eq!(
            date.strftime("%d %b %Y, %A %-d %B, day %j").unwrap(),
            "23 Nov 2026, Monday 23 November, day 327"
        );
        let leap: Date = "2024-02-29".parse().unwrap();
        assert_eq!(leap.strftime("%a %F").unwrap(), "Thu 2024-02-29");
        assert_eq!(leap.strftime("%Q"), None);
    }

    #[test]
    fn refuses_days_that_do_not_exist() {
        for text in [
            "2025-02-29",
            "2025-13-01",
            "25-01-01",
            "2025-1-1",
            "today",
            "2025-+1-01",
            "",
        ] {
            assert!(text.parse::<Date>().is_err(), "{text}");
        }
    }
}
