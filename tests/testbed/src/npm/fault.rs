//! What can be wrong with an answer to a login.

use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{api, State};
use crate::server::{lock, Answer, Request, Response, Stream};
use crate::wait::Stop;

/// How often a login that is held looks whether it still is.
const HOLD_INTERVAL: Duration = Duration::from_millis(1);

/// A fault in the answers to `POST /api/tokens`.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Reads the request and never answers.
    Hang,
    /// An error with this status, in NPM's shape.
    Status(u16),
    /// 200 with a body that is not JSON.
    Garbage,
    /// Not even HTTP.
    NotHttp,
    /// 200 with a body of length 0.
    EmptyBody,
    /// Reads the request and closes the connection.
    CloseAtOnce,
    /// A token that is a JWT without `exp`.
    NoExpiry,
    /// A token that is no JWT.
    NotJwt,
    /// The right answer breaks off in the middle.
    HalfAnswer,
    /// The right answer, with a pause before each byte.
    ByteByByte(Duration),
    /// 200 with a token of that many bytes.
    Endless(usize),
    /// 302 to that location.
    Redirect(String),
    /// The right answer, later by that much.
    Delay(Duration),
    /// The right answer, as soon as the fault is cleared.
    Hold,
    /// 400 with what was sent as its message.
    Echo,
}

pub(super) fn answer(
    fault: Fault,
    state: &Mutex<State>,
    request: &Request,
    stop: &Arc<Stop>,
) -> Answer {
    let right = || api::login(state, request, stop).unwrap_or_else(|refusal| refusal);
    let whole = |response| api::dressed(state, request, response);
    let stop = stop.clone();
    let response = match fault {
        Fault::Hang => return take_over(hang),
        Fault::CloseAtOnce => return take_over(|_| Ok(())),
        Fault::NotHttp => {
            return take_over(|stream| stream.write_all(b"\x15\x03\x01 not HTTP\r\n\r\n"))
        }
        Fault::HalfAnswer => {
            let message = message(&whole(right()));
            return take_over(move |stream| stream.write_all(&message[..message.len() - 100]));
        }
        Fault::ByteByByte(pause) => {
            let message = message(&whole(right()));
            return take_over(move |stream| drip(stream, &message, pause, &stop));
        }
        Fault::Delay(pause) => {
            if stop.pause(pause) {
                return take_over(|_| Ok(()));
            }
            right()
        }
        Fault::Hold => {
            while matches!(lock(state).fault, Some(Fault::Hold)) {
                if stop.pause(HOLD_INTERVAL) {
                    return take_over(|_| Ok(()));
                }
            }
            right()
        }
        Fault::Status(status) => {
            let message = match status {
                400 => "Invalid email or password",
                _ => "Internal Error",
            };
            api::error(status, message)
        }
        Fault::Garbage => Response::html(200, "<html>hello</html>"),
        Fault::EmptyBody => Response::json(200, ""),
        Fault::NoExpiry => {
            let mut state = lock(state);
            let now = state.now();
            let user = state.users.of_id(1).cloned();
            let Some(user) = user else { return take_over(|_| Ok(())) };
            let token = state.tokens.issue_endless(&user, "user", now);
            api::token_answer(&token, &crate::clock::iso8601(now + 86_400_000))
        }
        Fault::NotJwt => api::token_answer("not-a-jwt", "2099-01-01T00:00:00.000Z"),
        Fault::Endless(length) => {
            api::token_answer(&"a".repeat(length), "2099-01-01T00:00:00.000Z")
        }
        Fault::Redirect(location) => Response::redirect(&location),
        Fault::Echo => api::error(400, &String::from_utf8_lossy(&request.body)),
    };
    whole(response).into()
}

fn take_over(take: impl FnOnce(&mut dyn Stream) -> io::Result<()> + 'static) -> Answer {
    Answer::TakeOver(Box::new(take))
}

fn message(response: &Response) -> Vec<u8> {
    let mut message = format!("{}Connection: keep-alive\r\n\r\n", response.head()).into_bytes();
    message.extend_from_slice(&response.body);
    message
}

/// Waits until the client has had enough.
fn hang(stream: &mut dyn Stream) -> io::Result<()> {
    while stream.read(&mut [0; 1024])? > 0 {}
    Ok(())
}

fn drip(stream: &mut dyn Stream, message: &[u8], pause: Duration, stop: &Stop) -> io::Result<()> {
    for byte in message.chunks(1) {
        if stop.pause(pause) {
            return Err(ErrorKind::Interrupted.into());
        }
        stream.write_all(byte)?;
        stream.flush()?;
    }
    Ok(())
}
