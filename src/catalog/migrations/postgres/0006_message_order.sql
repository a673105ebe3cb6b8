-- The alarm that a message is of: messages of one alarm are delivered in the order in which they were made.
ALTER TABLE messages ADD COLUMN alarm TEXT NOT NULL DEFAULT '';
