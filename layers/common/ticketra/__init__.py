"""What several of Ticketra's functions share. No business rules live here."""
