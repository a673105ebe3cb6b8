//! Alarms and the outbox of their notifications: each message is kept until it has been delivered.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::patient::TimedTransaction;
use super::ticks::AddressedMessage;
use super::{Catalog, CatalogError, millis, time};
use crate::domain::alarm::{Alarm, AlarmKind};

/// An alarm that stands, and since when.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct StandingAlarm {
    /// What is wrong.
    #[serde(flatten)]
    pub alarm: Alarm,
    /// Since when.
    pub since: Timestamp,
    /// When somebody was told last.
    pub told: Timestamp,
}

/// A message that waits for its delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutgoingMessage {
    /// Its number.
    pub id: i64,
    /// Name of the channel.
    pub channel: String,
    /// What it is about.
    pub kind: AlarmKind,
    /// What it says, as JSON of [`crate::domain::alarm::AlarmMessage`].
    pub body: String,
    /// How often delivery has been tried.
    pub attempts: u32,
}

/// A message that could not be delivered so far.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct UndeliveredMessage {
    /// Name of the channel.
    pub channel: String,
    /// When it was made.
    pub made: Timestamp,
    /// How often delivery has been tried.
    pub attempts: i64,
    /// Why it failed last.
    pub error: Option<String>,
}

impl Catalog {
    /// Alarms that stand.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn alarms(&self) -> Result<Vec<StandingAlarm>, CatalogError> {
        let rows: Vec<(String, String, String, String, i64, i64)> = sqlx::query_as(
            "SELECT kind, subject, text, next_step, since, told FROM alarms ORDER BY since, alarm",
        )
        .fetch_all(self.ask())
        .await?;
        let standing = |(kind, subject, text, next_step, since, told): (
            String,
            String,
            String,
            String,
            i64,
            i64,
        )| {
            let alarm = Alarm { kind: AlarmKind::named(&kind)?, subject, text, next_step };
            Some(StandingAlarm { alarm, since: time(since), told: time(told) })
        };
        Ok(rows.into_iter().filter_map(standing).collect())
    }

    /// Notes that an alarm stands, or that somebody was told of it again, and keeps the message
    /// about it in the same breath. False if another host has just said so.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn raise(
        &self,
        alarm: &Alarm,
        now: Timestamp,
        told_before: Option<Timestamp>,
        letter: AddressedMessage,
    ) -> Result<bool, CatalogError> {
        let mut transaction = self.begin().await?;
        let now = millis(now);
        let done = match told_before {
            None => {
                sqlx::query(
                    "INSERT INTO alarms (alarm, kind, subject, text, next_step, since, told) VALUES ($1, $2, $3, $4, $5, $6, $6) ON CONFLICT DO NOTHING",
                )
                .bind(alarm.key())
                .bind(alarm.kind.name())
                .bind(&alarm.subject)
                .bind(&alarm.text)
                .bind(&alarm.next_step)
                .bind(now)
                .execute(transaction.ask())
                .await?
            }
            Some(before) => {
                sqlx::query("UPDATE alarms SET told = $2, text = $4, next_step = $5 WHERE alarm = $1 AND told = $3")
                    .bind(alarm.key())
                    .bind(now)
                    .bind(millis(before))
                    .bind(&alarm.text)
                    .bind(&alarm.next_step)
                    .execute(transaction.ask())
                    .await?
            }
        };
        if done.rows_affected() != 1 {
            return Ok(false);
        }
        for channel in &letter.channels {
            enqueue_in_tx(&mut transaction, channel, letter.kind, &alarm.key(), &letter.body, now)
                .await?;
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// Notes that an alarm stands no more. False if another host has just said so.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn settle(
        &self,
        alarm: &Alarm,
        letter: AddressedMessage,
    ) -> Result<bool, CatalogError> {
        let mut transaction = self.begin().await?;
        let now = self.now_within(&mut transaction).await?;
        let gone = sqlx::query("DELETE FROM alarms WHERE alarm = $1")
            .bind(alarm.key())
            .execute(transaction.ask())
            .await?;
        if gone.rows_affected() != 1 {
            return Ok(false);
        }
        for channel in &letter.channels {
            enqueue_in_tx(&mut transaction, channel, letter.kind, &alarm.key(), &letter.body, now)
                .await?;
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// Puts a message into the box of each channel.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn post(
        &self,
        channels: &[String],
        alarm: &Alarm,
        body: &str,
        now: Timestamp,
    ) -> Result<(), CatalogError> {
        let mut transaction = self.begin().await?;
        for channel in channels {
            enqueue_in_tx(&mut transaction, channel, alarm.kind, &alarm.key(), body, millis(now))
                .await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Takes messages to a channel that are to be delivered now: of each alarm the first that is
    /// not, so that nothing is over before it has begun. For `patience` no other host takes them.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn outgoing(
        &self,
        channel: &str,
        patience: Duration,
        limit: usize,
    ) -> Result<Vec<OutgoingMessage>, CatalogError> {
        let mut transaction = self.begin().await?;
        let now = self.now_within(&mut transaction).await?;
        let locked = if self.shared { " FOR UPDATE SKIP LOCKED" } else { "" };
        let query = format!(
            "SELECT id, channel, kind, body, attempts FROM messages WHERE sent IS NULL AND next_try <= $1 AND channel = $3
             AND NOT EXISTS (SELECT 1 FROM messages AS before WHERE before.channel = messages.channel AND before.alarm = messages.alarm
                             AND before.alarm <> '' AND before.sent IS NULL AND before.id < messages.id)
             ORDER BY next_try, id LIMIT $2{locked}"
        );
        let rows: Vec<(i64, String, String, String, i64)> =
            sqlx::query_as(sqlx::AssertSqlSafe(query))
                .bind(now)
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .bind(channel)
                .fetch_all(transaction.ask())
                .await?;
        for (id, ..) in &rows {
            sqlx::query("UPDATE messages SET next_try = $2 WHERE id = $1")
                .bind(id)
                .bind(now + i64::try_from(patience.as_millis()).unwrap_or(60_000))
                .execute(transaction.ask())
                .await?;
        }
        transaction.commit().await?;
        let outgoing = |(id, channel, kind, body, attempts): (i64, String, String, String, i64)| {
            Some(OutgoingMessage {
                id,
                channel,
                kind: AlarmKind::named(&kind)?,
                body,
                attempts: u32::try_from(attempts).unwrap_or_default(),
            })
        };
        Ok(rows.into_iter().filter_map(outgoing).collect())
    }

    /// Notes what came of a delivery: nothing is wrong, or why and when it is tried again.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn delivered(
        &self,
        id: i64,
        failed: Option<(&str, Duration)>,
    ) -> Result<(), CatalogError> {
        let now = millis(self.now().await?);
        let query = match failed {
            None => sqlx::query("UPDATE messages SET sent = $2, attempts = attempts + 1, error = NULL WHERE id = $1").bind(id).bind(now),
            Some((error, again)) => sqlx::query("UPDATE messages SET next_try = $2, attempts = attempts + 1, error = $3 WHERE id = $1")
                .bind(id)
                .bind(now + i64::try_from(again.as_millis()).unwrap_or(i64::MAX / 2))
                .bind(error.to_owned()),
        };
        query.execute(self.ask()).await?;
        Ok(())
    }

    /// Messages whose delivery has failed and not succeeded since, the oldest first.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn undelivered(&self) -> Result<Vec<UndeliveredMessage>, CatalogError> {
        let rows: Vec<(String, i64, i64, Option<String>)> =
            sqlx::query_as("SELECT channel, made, attempts, error FROM messages WHERE sent IS NULL AND attempts > 0 ORDER BY made")
                .fetch_all(self.ask())
                .await?;
        Ok(rows
            .into_iter()
            .map(|(channel, made, attempts, error)| UndeliveredMessage {
                channel,
                made: time(made),
                attempts,
                error,
            })
            .collect())
    }

    /// Forgets messages made before a time, and alarms' messages that nobody could be told in that
    /// time.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn forget_messages(&self, before: Timestamp) -> Result<u64, CatalogError> {
        let gone = sqlx::query("DELETE FROM messages WHERE made < $1")
            .bind(millis(before))
            .execute(self.ask())
            .await?;
        Ok(gone.rows_affected())
    }

    /// How many messages have been delivered and how many wait, for each channel.
    ///
    /// # Errors
    /// [`CatalogError::Query`]
    pub async fn message_counts(&self) -> Result<BTreeMap<String, (u64, u64)>, CatalogError> {
        let rows: Vec<(String, i64, i64)> =
            sqlx::query_as("SELECT channel, count(sent), count(*) FROM messages GROUP BY channel")
                .fetch_all(self.ask())
                .await?;
        let number = |count: i64| u64::try_from(count).unwrap_or_default();
        Ok(rows
            .into_iter()
            .map(|(channel, sent, all)| (channel, (number(sent), number(all - sent))))
            .collect())
    }
}

/// Puts a message into a channel's box.
pub(super) async fn enqueue_in_tx(
    transaction: &mut TimedTransaction,
    channel: &str,
    kind: AlarmKind,
    alarm: &str,
    body: &str,
    now: i64,
) -> Result<(), CatalogError> {
    sqlx::query("INSERT INTO messages (channel, kind, alarm, body, made, next_try) VALUES ($1, $2, $3, $4, $5, $5)")
        .bind(channel)
        .bind(kind.name())
        .bind(alarm)
        .bind(body)
        .bind(now)
        .execute(transaction.ask())
        .await?;
    Ok(())
}
